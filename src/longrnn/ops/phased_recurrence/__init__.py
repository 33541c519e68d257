"""A layer of LSTM or GRU cells whose units open by the clock."""
