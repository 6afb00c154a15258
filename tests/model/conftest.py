"""Runs before a test imports torch: spinning threads make a busy machine ten times slower."""

from model.process import prepare_process

prepare_process(None)
