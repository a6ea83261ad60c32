"""Writers of ONNX files: they render a plan and decide nothing."""
