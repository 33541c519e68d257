"""Replace nn.LSTM by a layer of longrnn: same arguments, same call, same shapes."""

import torch

import longrnn

x = torch.randn(1000, 8, 16)  # (T, B, m)

for layer in (torch.nn.LSTM(16, 32), longrnn.SRU(16, 32)):
    output, state = layer(x)  # (T, B, n)
    output.square().mean().backward()
    print(f"{type(layer).__name__:5} output {tuple(output.shape)}")
