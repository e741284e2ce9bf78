"""What a trained backbone becomes elsewhere: timm, torchvision, Hugging Face and ONNX; no region head."""
