"""MeanFlow (Geng, Deng, Bai, Kolter & He, 2505.13447): its predictor, which needs data."""
