"""Files for TensorRT beside the ONNX graph: the calibration cache of the implicit route, and FP16 by strong typing."""
