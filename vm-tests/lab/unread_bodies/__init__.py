"""Bodies that a server leaves unread, through Trivet, HAProxy and nginx: no client may meet what another one sent."""
