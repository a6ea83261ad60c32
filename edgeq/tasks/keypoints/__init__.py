"""Keypoints of objects: poses and landmarks, scored by COCO's object keypoint similarity."""
