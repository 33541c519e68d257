"""Variable lengths without paying for padding: buckets, batches, and one graph a bucket."""

from longrnn.batching.collate import (
    collate_packed,
    collate_padded,
    pack_end_to_end,
    pad_to_bucket,
)
from longrnn.batching.mux import MuxUnroll
from longrnn.batching.plan import bucket_indices, plan_buckets
from longrnn.batching.sampler import LengthBucketBatchSampler
from longrnn.batching.torch_rnn import run_padded

__all__ = [
    "LengthBucketBatchSampler",
    "MuxUnroll",
    "bucket_indices",
    "collate_packed",
    "collate_padded",
    "pack_end_to_end",
    "pad_to_bucket",
    "plan_buckets",
    "run_padded",
]
