# What the test machines have beside the example cluster: little memory, and alerts that need not wait for minutes. (Scraping every
# second would take half a core of the one machine that all of them run on.)
{
  services.trivet.database.small = true;
  services.trivet.monitoring = {
    scrapeInterval = "5s";
    scrapeTimeout = "3s";
    nodeDownAfter = "5s";
  };
}
