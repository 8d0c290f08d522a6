# Options beside the cluster that would break a node are refused too, and doubtful ones told. As many at once as one machine can
# have: each must be told. Returns the expectations that failed.
{ lib, evaluate }:
let
  node = extra: (evaluate.node "node1" extra).config;
  refusals = config: map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  expect =
    kind: said: words:
    lib.optional (!lib.any (lib.hasInfix words) said) (
      "expected the ${kind} \"${words}\", but the modules said: ${lib.concatStringsSep "; " said}"
    );

  # Of this one only the refusals can be asked: its units do not fit together.
  bad = node (
    { pkgs, ... }:
    {
      services.mysql.ensureDatabases = [ "shop" ];
      services.mysql.initialScript = "/var/lib/shop.sql";
      services.mysql.replication.role = "master";
      services.mysql.dataDir = "/srv/mysql";
      services.mysql.settings.mysqld.gtid-mode = "OFF";
      services.trivet.database.settings = {
        sync_binlog = 0;
        group_replication_consistency = "EVENTUAL";
        super_read_only = false;
        innodb_flush_log_at_trx_commit = 2;
      };
      services.trivet.database.withoutPromises = [ "innodb_flush_log_at_trx_commit" ];
      services.trivet.app.command = "my-site --production";
      services.trivet.app.environment = {
        DATABASE_WRITE_URL = "mysql://shop:secret@127.0.0.1:6446/shop";
        "NOT A NAME" = "x";
        TWO_LINES = "a\nUser=root";
        LISTEN = "0.0.0.0:80";
        DATABASE_CA_FILE = "/etc/ssl/ca.pem";
        PATH = "/opt/bin";
      };
      services.trivet.app.settings.listen = "127.0.0.1:9000";
      services.trivet.failover.advertInterval = "fast";
      services.trivet.monitoring = {
        scrapeInterval = "often";
        nodeDownAfter = "5 s";
        retention = "30";
      };
      services.trivet.balancer.settings.https = {
        max_connections = 60000;
        max_header_size = "128KiB";
        max_header_fields = 200;
        max_target_length = "64KiB";
        max_body_size = "1GiB";
      };
      services.trivet.web.settings.limits = {
        max_header_size = "140 kB";
        max_header_fields = 128;
        max_target_length = 16384;
        max_body_size = "500MB";
      };
      systemd.services.trivet-balancer.serviceConfig.LimitNOFILE = 65536;
      systemd.services.trivet-web.serviceConfig.LimitNOFILE = "1024:4096";
      services.trivet.firewall.extraInputRules = "} chain other {";
      networking.firewall.enable = true;
      networking.nftables.enable = false;
      services.nginx = {
        enable = true;
        virtualHosts.a = { };
        virtualHosts.b.listen = [ { addr = "127.0.0.1"; port = 8443; } ];
      };
      services.httpd = {
        enable = true;
        virtualHosts.c.forceSSL = true;
      };
      services.caddy.enable = true;
      services.haproxy = {
        enable = true;
        config = "frontend x\n  bind *:443 ssl\n";
      };
      services.trivet.balancer.tls.ticketSecret = pkgs.writeText "ticket.secret" "0123";
      services.trivet.backup = {
        enable = true;
        repositories."Off Site".sftp = {
          host = "vault";
          user = "backup";
          path = "site";
          keyFile = pkgs.writeText "ssh.key" "0123";
        };
      };
      services.trivet.balancer.certificates = [
        {
          certificate = "/var/lib/acme/shop/fullchain.pem";
          key = pkgs.writeText "shop.key" "the key";
        }
      ];
    }
  );
  said = refusals bad;

  # What is told and not refused, and what is as it should be.
  elsewhere = node (
    { lib, ... }:
    {
      services.trivet.cluster.nodes.node1.interface = "nosuch0";
      services.trivet.app.environment = {
        SHOP_API_KEY = "0123";
        SHOP_PASSWORD_FILE = "/run/secrets/shop";
      };
      services.trivet.monitoring.scrapeTimeout = "1m";
      services.trivet.failover.advertInterval = "60";
      services.nginx = {
        enable = true;
        virtualHosts.a.listen = [ { addr = "127.0.0.1"; port = 8080; } ];
      };
      services.prometheus.globalConfig.scrape_interval = "1h";
    }
  );
  # Web tiers follow the balancers' limits, on a node that has no balancer as well, and units their connections.
  roomy = node {
    services.trivet.balancer.settings.https = {
      max_connections = 50000;
      max_header_size = "128KiB";
      max_header_fields = 200;
      max_target_length = "64KiB";
    };
  };
  renumbered = address: (node { services.trivet.cluster.nodes.node1.address = lib.mkForce address; networking.interfaces.eth0.ipv4.addresses = lib.mkForce [ { address = "10.77.0.11"; prefixLength = 24; } ]; }).warnings;
  command = value: (node ({ pkgs, ... }: { services.trivet.app.command = value pkgs; })).systemd.services.trivet-app.serviceConfig.ExecStart;
in
lib.concatMap (expect "refusal" said) [
  "services.mysql.ensureDatabases knows nothing of"
  "services.mysql.initialScript knows nothing of"
  "unset services.mysql.replication.role"
  "services.mysql.dataDir = /srv/mysql"
  "node node1 has gtid-mode = OFF among mysqld's settings"
  "node node1 has sync_binlog = 0 among mysqld's settings"
  "node node1 has group_replication_consistency = EVENTUAL among mysqld's settings"
  "node node1 has super_read_only = OFF among mysqld's settings"
  "services.trivet.app.command is \"my-site --production\"; systemd wants one line"
  "services.trivet.app.environment sets DATABASE_WRITE_URL, whose password would be in the store"
  "services.trivet.app.environment has the name \"NOT A NAME\""
  "the value of services.trivet.app.environment.TWO_LINES has more than one line"
  "services.trivet.app.environment sets LISTEN, which Trivet sets itself"
  "services.trivet.app.environment sets DATABASE_CA_FILE, which Trivet sets itself"
  "services.trivet.app.environment sets PATH, which Trivet sets itself; add packages to"
  "node1's web tier sends requests to 127.0.0.1:8081, but the app listens on 127.0.0.1:9000"
  "services.trivet.failover.advertInterval is \"fast\"; write seconds from 0.01 to 40"
  "services.trivet.monitoring.scrapeInterval is \"often\"; write a duration"
  "services.trivet.monitoring.nodeDownAfter is \"5 s\"; write a duration"
  "services.trivet.monitoring.retention is \"30\"; write a duration"
  ("the balancers let in request heads of 128KiB (services.trivet.balancer.settings.https.max_header_size), but the web tiers take "
    + "140 kB (services.trivet.web.settings.limits.max_header_size), and forwarding adds up to 16384; leave the latter out, or make it "
    + "147456 or more")
  "200 (services.trivet.balancer.settings.https.max_header_fields), but the web tiers take 128"
  "request targets of 64KiB (services.trivet.balancer.settings.https.max_target_length), but the web tiers take 16384"
  "request bodies of 1GiB (services.trivet.balancer.settings.https.max_body_size), but the web tiers take 500MB"
  ("systemd.services.trivet-balancer.serviceConfig.LimitNOFILE is 65536, but 60000 connections "
    + "(services.trivet.balancer.settings.https.max_connections)")
  "systemd.services.trivet-web.serviceConfig.LimitNOFILE is 1024:4096, but 10000 connections"
  "services.trivet.firewall.extraInputRules closes a brace"
  "networking.firewall is on"
  "networking.nftables.enable is false"
  "node node1 runs nginx on port 80, which trivet-balancer needs"
  "node node1 runs nginx on port 8443, which trivet-web needs"
  "node node1 runs httpd on port 443, which trivet-balancer needs"
  "node node1 runs caddy on port 80, which trivet-balancer needs"
  "node node1 runs haproxy on port 443, which trivet-balancer needs"
  "services.trivet.balancer.tls.ticketSecret is in the store"
  "services.trivet.backup.repositories has the name \"Off Site\""
  "services.trivet.backup.repositories.Off Site.sftp.keyFile is in the store"
  "the key of certificate 1 of services.trivet.balancer.certificates is in the store"
]
# What else would go wrong with these does not hide the words.
++ expect "refusal" (refusals (evaluate.node "web-1" { }).config) "this machine is \"web-1\", but the cluster has only node1, node2, node3"
++ expect "refusal" (refusals (node {
  services.trivet.cluster.nodes.node1.address = lib.mkForce "fd00::11";
  networking.interfaces.eth0.ipv4.addresses = lib.mkForce [ ];
})) "node node1 has the address \"fd00::11\", which is not an IPv4 address"
++ expect "refusal" (refusals (node {
  services.keepalived.enable = true; # by itself: its unit and ours do not fit into one system
})) "node node1 runs keepalived for the virtual address"
++ lib.concatMap (words: lib.optional (lib.any (lib.hasInfix words) said) "refused without need: ${words}") [
  "innodb_flush_log_at_trx_commit"
]
++ expect "warning" elsewhere.warnings "services.trivet.app.environment sets SHOP_API_KEY, which looks like a secret"
++ lib.optional (lib.any (lib.hasInfix "SHOP_PASSWORD_FILE") elsewhere.warnings) "warned without need: SHOP_PASSWORD_FILE"

++ expect "warning" elsewhere.warnings "node node1 has the interface nosuch0 in services.trivet.cluster.nodes, but its networking knows only"
++ expect "refusal" (refusals elsewhere) "services.trivet.monitoring.scrapeTimeout is 1m, longer than scrapeInterval (15s)"
++ expect "refusal" (refusals elsewhere) "services.trivet.failover.advertInterval is \"60\"; write seconds"
++ lib.optional (lib.any (lib.hasInfix "nginx") (refusals elsewhere)) "nginx on a port of its own is refused"
++ lib.optional (elsewhere.services.prometheus.globalConfig.scrape_interval != "1h") "a site's own scrape_interval does not count"
++ expect "warning" (renumbered "10.99.0.11") "which is in no network of its interface eth0 (10.77.0.0/24)"
++ expect "warning" (renumbered "10.77.0.255") "the first or last of its network"
++ lib.optional (!lib.hasSuffix "/bin/hello" (command (pkgs: pkgs.hello))) "a package as services.trivet.app.command is not its main program"
++ lib.optional (command (_: "/opt/site/run --fast") != "/opt/site/run --fast") "a command line as services.trivet.app.command is changed"
++ lib.optional (
  roomy.services.trivet.web.settings.limits != {
    max_header_size = "147456B";
    max_header_fields = 224;
    max_target_length = "65536B";
  }
) "the web tier's limits do not follow the balancer's: ${builtins.toJSON roomy.services.trivet.web.settings.limits}"
++ map (words: "refused without need: ${words}") (refusals roomy)
++ lib.optional (roomy.systemd.services.trivet-balancer.serviceConfig.LimitNOFILE != 71286) (
  "LimitNOFILE does not follow max_connections: ${toString roomy.systemd.services.trivet-balancer.serviceConfig.LimitNOFILE}"
)
