"""The features in which published distances are measured: of Inception, and of DINOv2."""
