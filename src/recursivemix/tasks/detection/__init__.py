"""Objects and their boxes: detectors on a backbone, and COCO's metrics."""
