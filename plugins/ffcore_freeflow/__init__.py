"""FreeFlow (Tong, Ma, Xie & Jaakkola, 2511.19428): its predictor and balancer."""
