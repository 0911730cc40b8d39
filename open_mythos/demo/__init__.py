"""The main job: train small looped models on text and on a task, sweep the loops, and report."""
