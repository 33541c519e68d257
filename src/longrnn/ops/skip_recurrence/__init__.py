"""A stack of LSTM or GRU cells under one gate that skips steps."""
