"""``python -m channel`` runs a channel set up by COMMIN_CHANNEL_ variables."""

from channel.service import run
from channel.settings import ChannelSettings
from shared.settings import load_settings

if __name__ == "__main__":
    run(load_settings(ChannelSettings))
