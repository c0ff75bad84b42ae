# Every target makes what it needs, the Python environment included.

.PHONY: proto
proto:
	.venv/bin/python proto/generate.py
