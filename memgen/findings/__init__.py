"""What tables say: estimates with intervals, and words. Tables in, no PyTorch."""
