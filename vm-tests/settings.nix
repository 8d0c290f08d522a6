# What the test machines have beside the example cluster: little memory, and alerts that need not wait for minutes.
{
  services.trivet.database.small = true;
  services.trivet.monitoring = {
    scrapeInterval = "1s";
    scrapeTimeout = "1s";
    nodeDownAfter = "2s";
  };
}
