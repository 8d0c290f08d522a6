# What the test machines have beside the example cluster: little memory, and alerts that need not wait for minutes.
{
  services.trivet.database.small = true;
  services.trivet.monitoring = {
    # Three machines on one all ask one another: every second took half a core.
    scrapeInterval = "5s";
    scrapeTimeout = "3s";
    exporterInterval = "10s";
    nodeDownAfter = "2s";
  };
}
