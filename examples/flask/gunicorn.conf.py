"""gunicorn reads this file from the working directory."""

bind = "0.0.0.0:8000"
threads = 4
# On SIGTERM: stop accepting, finish what was begun, exit 0.
graceful_timeout = 20
# The root file system is read-only; only memory and /tmp can be written.
worker_tmp_dir = "/dev/shm"  # noqa: S108
control_socket_disable = True
# An app that cannot load its model fails at once instead of restarting workers forever.
preload_app = True
