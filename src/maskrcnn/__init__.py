"""Mask R-CNN on PyTorch."""
