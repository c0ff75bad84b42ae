"""``python -m transmitter`` runs a transmitter set up by COMMIN_TRANSMITTER_ variables."""

from shared.settings import load_settings
from transmitter.service import run
from transmitter.settings import TransmitterSettings

if __name__ == "__main__":
    run(load_settings(TransmitterSettings))
