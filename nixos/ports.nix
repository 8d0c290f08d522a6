# Every port of a cluster, once. The table in docs/nixos.md says who may reach each of them.
{
  http = 80;
  https = 443;
  ssh = 22;
  web = 8443;
  app = 8081; # loopback
  mysql = 3306;
  databaseWrite = 6446; # loopback; the numbers MySQL Router uses
  databaseRead = 6447; # loopback
  keeper = 8008;
  balancerControl = 8009;
  gatewayControl = 8010;
  localCheck = 9611; # loopback; keepalived asks it
  balancerMetrics = 9601;
  webMetrics = 9602;
  appMetrics = 9603;
  keeperMetrics = 9604;
  gatewayMetrics = 9605;
  backupMetrics = 9606;
  nodeExporter = 9100;
  mysqldExporter = 9104;
  prometheus = 9090;
  alertmanager = 9093;
  grafana = 3000;
}
