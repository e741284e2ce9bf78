"""Export of trained classifiers to timm, torchvision, Hugging Face transformers and ONNX."""
