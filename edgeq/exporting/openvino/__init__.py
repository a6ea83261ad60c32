"""OpenVINO's own format, for weights of few bits that its reader of ONNX files has no type for, or no small form."""
