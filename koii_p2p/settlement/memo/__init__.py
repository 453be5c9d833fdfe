"""Anchors as memos: the carrier for clusters that do not have the settlement program. It moves no money."""
