"""What a checkpoint is worth beyond accuracy: calibration, corruption, occlusion, scale, localisation."""
