// Set-up that Python does once, and memory for large results.
//
// Fresh memory costs more than the arithmetic on it: the kernel hands out zeroed pages one fault at
// a time. So large results lie on huge pages, and the memory of results that were dropped is kept
// for the next ones: a sixteenth of the machine's memory at most. Of that, what is large is marked as
// free to take: the kernel takes it when somebody needs memory, and it costs nothing until then.
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "plan.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace longrnn {

OpenMpParallel openmp_parallel = nullptr;
int (*openmp_num_threads)() = nullptr;

namespace {

// The C structs of DLPack 0.8, by which torch takes over memory that is not its own.
struct DLTensor {
  void* data;
  int32_t device_type, device_id, ndim;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* manager;
  void (*deleter)(DLManagedTensor*);
};
constexpr int32_t kCpu = 1;

#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MADV_FREE)

constexpr size_t kHugePage = size_t(2) << 20;

struct Block {
  void* data;
  size_t bytes;
};

void* map_on_huge_pages(size_t bytes) {
  void* mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const uintptr_t start = uintptr_t(mapped), aligned = (start + kHugePage - 1) & ~(kHugePage - 1);
  if (aligned > start) munmap(mapped, aligned - start);
  if (aligned + bytes < start + bytes + kHugePage)
    munmap(reinterpret_cast<void*>(aligned + bytes), start + kHugePage - aligned);
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
  return reinterpret_cast<void*>(aligned);
}

// Blocks that nobody uses, oldest first. A lock that cannot be had at once is not waited for: its
// holder may be a thread that did not survive a fork.
class IdleBlocks {
 public:
  void* take(size_t bytes, size_t& found) {
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return nullptr;
    size_t best = blocks_.size();
    for (size_t i = 0; i < blocks_.size(); i++)
      if (blocks_[i].bytes >= bytes && blocks_[i].bytes <= bytes + bytes / 8 &&
          (best == blocks_.size() || blocks_[i].bytes < blocks_[best].bytes))
        best = i;
    if (best == blocks_.size()) return nullptr;
    const Block block = blocks_[best];
    blocks_.erase(blocks_.begin() + best);
    bytes_ -= block.bytes;
    found = block.bytes;
    return block.data;
  }

  void keep(Block block) {
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock || block.bytes > kMost) {
      munmap(block.data, block.bytes);
      return;
    }
    if (block.bytes >= kWorthMarking) madvise(block.data, block.bytes, MADV_FREE);
    blocks_.push_back(block);
    bytes_ += block.bytes;
    while (bytes_ > kMost) {
      munmap(blocks_.front().data, blocks_.front().bytes);
      bytes_ -= blocks_.front().bytes;
      blocks_.erase(blocks_.begin());
    }
  }

 private:
  // Writing marked pages again costs some 10 us a MiB, which only shows while they fit the cache.
  static constexpr size_t kWorthMarking = size_t(32) << 20;
  const size_t kMost = size_t(sysconf(_SC_PHYS_PAGES)) / 16 * size_t(sysconf(_SC_PAGESIZE));
  std::mutex mutex_;
  std::vector<Block> blocks_;
  size_t bytes_ = 0;
};

IdleBlocks& idle_blocks() {
  static auto* blocks = new IdleBlocks;  // outlives every tensor, at exit too
  return *blocks;
}

struct Owned {
  DLManagedTensor managed;
  std::vector<int64_t> shape;
  Block block;
};

DLManagedTensor* allocate(size_t bytes, int type_code, int type_bits, const int64_t* shape,
                          int rank) {
  size_t size = (bytes + kHugePage - 1) & ~(kHugePage - 1);
  void* data = idle_blocks().take(size, size);
  if (!data) data = map_on_huge_pages(size);
  if (!data) return nullptr;
  auto* owned = new Owned{{}, {shape, shape + rank}, {data, size}};
  DLManagedTensor& managed = owned->managed;
  managed.tensor = {data, kCpu, 0, rank, uint8_t(type_code), uint8_t(type_bits), 1,
                    owned->shape.data(), nullptr, 0};  // no strides: contiguous
  managed.manager = owned;
  managed.deleter = [](DLManagedTensor* self) {
    auto* owned = static_cast<Owned*>(self->manager);
    idle_blocks().keep(owned->block);
    delete owned;
  };
  return &managed;
}

#else

DLManagedTensor* allocate(size_t, int, int, const int64_t*, int) { return nullptr; }

#endif

}  // namespace
}  // namespace longrnn

// Hands over GOMP_parallel of the OpenMP that torch runs; null: threads of our own.
EXPORT void longrnn_use_openmp(void* gomp_parallel, void* omp_get_num_threads) {
  longrnn::openmp_parallel = reinterpret_cast<longrnn::OpenMpParallel>(gomp_parallel);
  longrnn::openmp_num_threads = reinterpret_cast<int (*)()>(omp_get_num_threads);
}

// A DLManagedTensor of so many bytes, not written yet; null where this system has no huge pages.
EXPORT void* longrnn_allocate(int64_t bytes, int type_code, int type_bits, const int64_t* shape,
                              int rank) {
  return longrnn::allocate(size_t(bytes), type_code, type_bits, shape, rank);
}
