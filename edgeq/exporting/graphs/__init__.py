"""Float ONNX graphs: opening, cleaning, analysing. Nothing here rewrites a layer."""
