"""``python -m receiver`` runs a receiver set up by COMMIN_RECEIVER_ variables."""

from receiver.service import run
from receiver.settings import ReceiverSettings
from shared.settings import load_settings

if __name__ == "__main__":
    run(load_settings(ReceiverSettings))
