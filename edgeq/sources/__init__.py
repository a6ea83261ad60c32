"""What MODEL on the command line names: a torch model, an ONNX file or a TFLite file."""
