# Metrics of every program on every node, and on nodes with the role monitoring the Prometheus and Alertmanager that read
# them. Targets and alerts come from the cluster; each monitoring node watches all nodes, itself included.
{
  config,
  lib,
  pkgs,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  inherit (cfg) monitoring;
  inherit (trivet) ports self has;

  # Exporters walk through a whole machine or database for one answer. A slow one is not a dead one: it may take its interval.
  exporterJob =
    job_name: port: nodes:
    job job_name port nodes
    // {
      scrape_interval = monitoring.exporterInterval;
      scrape_timeout = monitoring.exporterInterval;
    };
  job = job_name: port: nodes: {
    inherit job_name;
    static_configs = map (n: {
      targets = [ (trivet.at port n) ];
      labels.node = n.name;
    }) nodes;
  };
  rules = import ./rules.nix { inherit cfg lib; };
  rulesFile = pkgs.writeText "trivet-rules.json" (builtins.toJSON rules); # JSON is YAML
  exporter = "mysqld-exporter";
  milliseconds = import ./milliseconds.nix { inherit lib; };
  isDuration = text: text != "" && milliseconds text != null;
  durations = lib.getAttrs [
    "scrapeInterval"
    "exporterInterval"
    "scrapeTimeout"
    "nodeDownAfter"
    "retention"
  ] monitoring;
  restart = lib.mapAttrs (_: lib.mkForce) (
    import ./restart.nix {
      first = "1s";
      longest = "30s";
    }
  );
in
{
  options.services.trivet.monitoring = {
    scrapeInterval = lib.mkOption {
      type = lib.types.str;
      default = "15s";
      description = "How often Trivet's programs are asked for their metrics, and how often the alerts are evaluated.";
    };
    exporterInterval = lib.mkOption {
      type = lib.types.str;
      default = "15s";
      description = "How often the exporters of machine and MySQL are asked, which costs more.";
    };
    scrapeTimeout = lib.mkOption {
      type = lib.types.str;
      default = "5s";
      description = "How long a target may take to answer; no longer than the interval.";
    };
    nodeDownAfter = lib.mkOption {
      type = lib.types.str;
      default = "15s";
      description = "How long a node has been silent when the alert NodeDown fires.";
    };
    retention = lib.mkOption {
      type = lib.types.str;
      default = "30d";
      description = "How long measurements are kept.";
    };
    certificateWarning = lib.mkOption {
      type = lib.types.ints.positive;
      default = 14;
      description = "Days before a certificate's end at which the alert CertificateExpiring fires.";
    };
    alertmanager = lib.mkOption {
      inherit (pkgs.formats.json { }) type;
      default = {
        route = {
          receiver = "dashboard";
          group_by = [ "alertname" ];
          group_wait = "10s";
          group_interval = "1m";
          repeat_interval = "4h";
        };
        receivers = [ { name = "dashboard"; } ];
      };
      description = ''
        Configuration of Alertmanager: whom it tells, and how. As it stands alerts are shown on its page and sent to nobody.
        Secrets by file (`smtp_auth_password_file` and the like), never as text.
      '';
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions =
          lib.mapAttrsToList (name: value: {
            assertion = isDuration value;
            message = "trivet: services.trivet.monitoring.${name} is \"${value}\"; write a duration with its unit, such as 15s, 5m or 30d";
          }) durations
          ++ lib.optional (lib.all isDuration (lib.attrValues durations)) {
            assertion = milliseconds monitoring.scrapeTimeout <= milliseconds monitoring.scrapeInterval;
            message =
              "trivet: services.trivet.monitoring.scrapeTimeout is ${monitoring.scrapeTimeout}, longer than scrapeInterval "
              + "(${monitoring.scrapeInterval}), which Prometheus refuses; make it as short or shorter";
          };

        services.prometheus.exporters.node = {
          enable = true;
          listenAddress = self.address;
          port = ports.nodeExporter;
          # Named one by one: what is on by default differs from build to build, and each costs.
          enabledCollectors = [
            "conntrack"
            "cpu"
            "diskstats"
            "filefd"
            "filesystem"
            "loadavg"
            "meminfo"
            "netdev"
            "netstat"
            "pressure"
            "sockstat"
            "stat"
            "time"
            "timex"
            "uname"
            "vmstat"
          ];
          extraFlags = [ "--collector.disable-defaults" ];
        };
        # It listens on the node's address, not on all of them.
        systemd.services.prometheus-node-exporter = {
          wants = [ "network-online.target" ];
          after = [ "network-online.target" ];
          startLimitIntervalSec = 0;
          serviceConfig = restart;
        };
      }

      (lib.mkIf (has "database") {
        services.prometheus.exporters.mysqld = {
          enable = true;
          listenAddress = self.address;
          port = ports.mysqldExporter;
          user = exporter;
          group = exporter;
          # No password: MySQL asks the socket who is there (auth_socket).
          configFile = pkgs.writeText "mysqld-exporter.cnf" ''
            [client]
            user=${config.services.trivet.keeper.settings.mysql.exporter_user}
            socket=${config.services.mysql.settings.mysqld.socket}
          '';
          extraFlags = [
            "--collect.perf_schema.replication_group_members"
            "--collect.perf_schema.replication_group_member_stats"
          ];
        };
        services.trivet.users = [ exporter ];
        systemd.services.prometheus-mysqld-exporter = {
          wants = [ "network-online.target" ];
          after = [
            "network-online.target"
            "mysql.service"
          ];
          startLimitIntervalSec = 0;
          serviceConfig = restart // {
            # A user that mysqld can look up: its MySQL account belongs to it by name.
            DynamicUser = lib.mkForce false;
          };
        };
      })

      (lib.mkIf (has "monitoring") {
        services.prometheus = {
          enable = true;
          listenAddress = "0.0.0.0"; # the firewall lets administrators in, and the node itself
          port = ports.prometheus;
          # Checked with the system (below), so that the unit names the file itself.
          checkConfig = false;
          retentionTime = monitoring.retention;
          globalConfig = {
            scrape_interval = lib.mkDefault monitoring.scrapeInterval;
            scrape_timeout = lib.mkDefault monitoring.scrapeTimeout;
            evaluation_interval = lib.mkDefault monitoring.scrapeInterval;
            external_labels.cluster = cfg.cluster.name;
          };
          scrapeConfigs = lib.filter (j: j.static_configs != [ ]) [
            (exporterJob "node" ports.nodeExporter trivet.nodes)
            (job "balancer" ports.balancerMetrics trivet.balancers)
            (job "web" ports.webMetrics trivet.apps)
            (job "app" ports.appMetrics trivet.apps)
            (job "gateway" ports.gatewayMetrics trivet.apps)
            (job "keeper" ports.keeperMetrics trivet.databases)
            (exporterJob "mysql" ports.mysqldExporter trivet.databases)
            (job "backup" ports.backupMetrics (lib.optionals cfg.backup.enable trivet.databases))
            {
              job_name = "prometheus";
              static_configs = [
                {
                  targets = [ (trivet.local ports.prometheus) ];
                  labels.node = self.name;
                }
              ];
            }
          ];
          ruleFiles = [ rulesFile ];
          alertmanagers = [ { static_configs = [ { targets = [ (trivet.local ports.alertmanager) ]; } ]; } ];

          alertmanager = {
            enable = true;
            listenAddress = "0.0.0.0";
            port = ports.alertmanager;
            checkConfig = false;
            configuration = monitoring.alertmanager;
          };
        };

        systemd.services.prometheus = {
          startLimitIntervalSec = 0;
          serviceConfig = restart;
        };
        systemd.services.alertmanager =
          let
            file = pkgs.writeText "alertmanager.json" (builtins.toJSON monitoring.alertmanager);
          in
          {
            startLimitIntervalSec = 0;
            # NixOS substitutes variables into a copy first; ours has none, secrets come by file.
            preStart = lib.mkForce "";
            serviceConfig = restart // {
              ExecStart = lib.mkForce "${config.services.prometheus.alertmanager.package}/bin/alertmanager --config.file=${file} --web.listen-address=0.0.0.0:${toString ports.alertmanager} --storage.path=/var/lib/alertmanager --cluster.listen-address=";
            };
          };

        services.trivet.checks.rules =
          pkgs.runCommand "trivet-rules-check" { nativeBuildInputs = [ config.services.prometheus.package.cli ]; }
            ''
              promtool check rules ${rulesFile}
              touch $out
            '';
      })
    ]
  );
}
