"""A stack of GILR-LSTM layers under one gate that skips steps."""
