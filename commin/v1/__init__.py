"""The wire: messages and stubs generated from ``proto/commin/v1`` by ``make proto``."""
