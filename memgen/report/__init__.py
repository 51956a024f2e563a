"""What people look at: figures, sheets of images, and the page. Findings in, files out, no PyTorch."""
