"""Before a test imports torch: threads that spin make a busy machine ten times slower."""

from model.process import prepare_process

prepare_process(None)
