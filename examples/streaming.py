"""Feed a long recording piece by piece: the state goes in and comes out."""

import torch

import longrnn

recording = torch.randn(10_000, 1, 4)  # (T, B, m)
layer = longrnn.GILRLSTM(4, 32, num_layers=2).eval()

with torch.no_grad():
    whole, _ = layer(recording)

    state, pieces = None, []
    for piece in recording.split(1024):
        output, state = layer(piece, state)
        pieces.append(output)

    one_step, state = layer(recording[:1], state)  # and live, one step at a time

error = (torch.cat(pieces) - whole).abs().max()
print(f"pieces differ from the whole by at most {error:.1e}")
assert error < 1e-4
