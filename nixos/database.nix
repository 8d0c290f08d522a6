# MySQL with Group Replication. `services.mysql` gives package, data directory and settings file; the group itself is the
# keeper's business (keeper.nix): nothing here starts, joins or bootstraps one.
{
  config,
  lib,
  pkgs,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  db = cfg.database;
  inherit (trivet) ports self;
  tls = trivet.nodeTls "mysql";
  client = "${config.services.mysql.package}/bin/mysql --no-defaults --socket=${socket} --batch --skip-column-names";
  socket = "/run/mysqld/mysqld.sock";
  restart = lib.mapAttrs (_: lib.mkForce) (import ./restart.nix { first = "1s"; });
  marker = "${config.services.mysql.dataDir}/mysql_init";

  # Local accounts only, and outside the binary log: a transaction of a member's own would keep it out of the group. The
  # keeper makes all others, once, on the group's primary. root comes last: once it is closed to a password, the script is done.
  firstBoot = pkgs.writeText "mysql-first-boot.sql" ''
    SET SQL_LOG_BIN = 0;
    SET GLOBAL super_read_only = OFF;
    CREATE USER IF NOT EXISTS 'trivet-keeper'@'localhost' IDENTIFIED WITH auth_socket;
    GRANT ALL ON *.* TO 'trivet-keeper'@'localhost' WITH GRANT OPTION;
    ALTER USER 'root'@'localhost' IDENTIFIED WITH auth_socket;
    SET GLOBAL super_read_only = ON;
  '';
  # What Trivet promises of the database rests on these: the values that will do, as MySQL takes them.
  on = [ "ON" "on" "1" ];
  off = [ "OFF" "off" "0" ];
  promises =
    {
      sync_binlog = [ "1" ];
      innodb_flush_log_at_trx_commit = [ "1" ];
      innodb_doublewrite = on ++ [ "DETECT_AND_RECOVER" ];
      gtid_mode = [ "ON" "on" ];
      enforce_gtid_consistency = on;
      super_read_only = on;
      require_secure_transport = on;
      log_replica_updates = on;
      binlog_format = [ "ROW" "row" ];
    }
    // lib.mapAttrs' (name: lib.nameValuePair "loose_group_replication_${name}") {
      group_name = [ cfg.cluster.groupName ];
      consistency = [ "BEFORE_ON_PRIMARY_FAILOVER" "AFTER" "BEFORE_AND_AFTER" ];
      start_on_boot = off;
      bootstrap_group = off;
      single_primary_mode = on;
      ssl_mode = [ "VERIFY_IDENTITY" ];
      exit_state_action = [ "READ_ONLY" ];
    };
  # MySQL reads - and _ in names alike, and loose_ as nothing.
  bare = name: lib.removePrefix "loose_" (lib.replaceStrings [ "-" ] [ "_" ] name);
  broken = lib.filterAttrs (
    name: value:
    let
      known = lib.filter (promise: bare promise == bare name) (lib.attrNames promises);
      written = if lib.isBool value then (if value then "ON" else "OFF") else toString value;
    in
    known != [ ] && !lib.elem written promises.${lib.head known} && !lib.any (p: bare p == bare name) db.withoutPromises
  ) config.services.mysql.settings.mysqld;
in
{
  options.services.trivet.database = {
    bufferPoolSize = lib.mkOption {
      type = lib.types.str;
      default = "1G";
      description = "Memory for InnoDB's cache of table data. On a node that does nothing else, about two thirds of its memory.";
    };
    small = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Trade speed and diagnosis for memory: about 400 MB in all. For test machines.";
    };
    settings = lib.mkOption {
      type = with lib.types; attrsOf (oneOf [ bool str int (listOf str) ]);
      apply = lib.mapAttrs (_: value: if lib.isBool value then (if value then "ON" else "OFF") else value);
      default = { };
      description = "More settings of mysqld, or others in place of ours.";
    };
    withoutPromises = lib.mkOption {
      type = lib.types.listOf (lib.types.enum (lib.attrNames promises));
      default = [ ];
      example = [ "sync_binlog" ];
      description = ''
        Settings of mysqld that may differ from what Trivet's promises rest on (nothing acknowledged is lost, at most one member
        takes writes, no member goes its own way). Elsewhere such a difference is refused.
      '';
    };
  };

  config = lib.mkIf (cfg.enable && trivet.has "database") {
    services.mysql = {
      enable = true;
      package = lib.mkDefault pkgs.mysql84;
      settings.mysqld = lib.mkMerge [
        (lib.mapAttrs (_: lib.mkDefault) {
          inherit socket;
          port = ports.mysql;
          bind_address = "${self.address},127.0.0.1";
          report_host = self.address;
          server_id = trivet.serverId;
          mysqlx = "OFF";
          skip_name_resolve = "ON";

          # Durability: an acknowledged transaction is on disk.
          sync_binlog = 1;
          innodb_flush_log_at_trx_commit = 1;
          gtid_mode = "ON";
          enforce_gtid_consistency = "ON";
          log_bin = "binlog";
          relay_log = "relay";
          binlog_expire_logs_seconds = 604800; # a member away for longer is cloned anew
          # Group Replication replicates InnoDB alone.
          disabled_storage_engines = "MyISAM,BLACKHOLE,FEDERATED,ARCHIVE,MEMORY";
          # A server that starts takes no writes until the group has made it primary.
          super_read_only = "ON";

          # TLS 1.3 with the cluster's own CA, for clients and between members.
          ssl_ca = tls.ca;
          ssl_cert = tls.certificate;
          ssl_key = tls.key;
          require_secure_transport = "ON";
          tls_version = "TLSv1.3";

          max_connections = 1000;
          innodb_buffer_pool_size = db.bufferPoolSize;
        })
        {
          plugin-load-add = [
            "group_replication.so"
            "mysql_clone.so"
          ];
        }
        # loose_: the server is initialized without its plugins, and would refuse names it does not know.
        (lib.mapAttrs' (name: value: lib.nameValuePair "loose_group_replication_${name}" (lib.mkDefault value)) {
          group_name = cfg.cluster.groupName;
          communication_stack = "MYSQL";
          local_address = trivet.at ports.mysql self;
          # group_seeds: the keeper sets them, so that a member more does not restart the others.
          # With ON, a server that finds no group turns writable by itself after a minute.
          start_on_boot = "OFF";
          bootstrap_group = "OFF";
          single_primary_mode = "ON";
          ssl_mode = "VERIFY_IDENTITY";
          recovery_use_ssl = "ON";
          recovery_ssl_ca = tls.ca;
          recovery_ssl_verify_server_cert = "ON";
          # A new primary answers only once it has applied what the old one acknowledged.
          consistency = "BEFORE_ON_PRIMARY_FAILOVER";
          # Failover in 7 s; with the default 5 it takes 22 to 30.
          member_expel_timeout = 0;
          # A minority gives up after 10 s, and goes read-only.
          unreachable_majority_timeout = 10;
          # Joining again is the keeper's business: MySQL would try once in five minutes, and stand in its way meanwhile.
          autorejoin_tries = 0;
          # OFFLINE_MODE would not be reset when the member rejoins.
          exit_state_action = "READ_ONLY";
          # Must be equal on all members; ON costs pauses of up to a second.
          paxos_single_leader = "OFF";
          # 128 MiB, the least MySQL allows; the default is 1 GiB.
          message_cache_size = 134217728;
        })
        (lib.mkIf db.small (
          lib.mapAttrs (_: lib.mkOverride 900) {
            innodb_buffer_pool_size = "64M";
            innodb_redo_log_capacity = "32M";
            innodb_log_buffer_size = "8M";
            max_connections = 150;
            table_open_cache = 400;
            key_buffer_size = "64K";
            performance_schema_digests_size = 200;
            performance_schema_error_size = 0;
            performance_schema_max_thread_instances = 200;
            performance_schema_accounts_size = 20;
            performance_schema_hosts_size = 20;
            performance_schema_users_size = 20;
            performance_schema_max_memory_classes = 0;
            performance_schema_events_statements_history_long_size = 100;
          }
        ))
        db.settings
      ];
    };

    warnings =
      let
        count = lib.length trivet.databases;
      in
      lib.optional (count > 2 && lib.mod count 2 == 0) (
        "trivet: ${toString count} nodes have the role database; they survive no more failures than ${toString (count - 1)} and can be "
        + "split in half, so let this be a step on the way to ${toString (count + 1)}"
      );

    # They would be written by this member alone, which then fits into no group.
    assertions =
      map
        (option: {
          assertion = lib.elem config.services.mysql.${option} [
            [ ]
            null
          ];
          message =
            "trivet: node ${self.name} is a member of the database group, which services.mysql.${option} knows nothing of; leave it "
            + "unset, and make databases and users on the primary";
        })
        [
          "ensureDatabases"
          "ensureUsers"
          "initialDatabases"
          "initialScript"
        ]
      ++ [
        {
          assertion = config.services.mysql.replication.role == "none";
          message =
            "trivet: node ${self.name} is a member of the database group; unset services.mysql.replication.role, "
            + "which replicates in another way";
        }
        {
          assertion = config.services.mysql.dataDir == "/var/lib/mysql" && config.services.mysql.user == "mysql";
          message =
            "trivet: node ${self.name} has services.mysql.dataDir = ${config.services.mysql.dataDir} and services.mysql.user = "
            + "${config.services.mysql.user}; leave them as /var/lib/mysql and mysql, and mount another disk there if need be";
        }
        {
          assertion = lib.getName config.services.mysql.package == "mysql";
          message =
            "trivet: node ${self.name} has ${lib.getName config.services.mysql.package} as services.mysql.package; Group "
            + "Replication is Oracle MySQL's, so choose pkgs.mysql84 or newer";
        }
      ]
      ++ lib.mapAttrsToList (name: value: {
        assertion = false;
        message =
          "trivet: node ${self.name} has ${name} = ${toString value} among mysqld's settings, and what Trivet promises of the database rests "
          + "on another value; leave it out, or name it in services.trivet.database.withoutPromises and do without the promise";
      }) broken;

    systemd.services.mysql = {
      after = [ "network-online.target" ];
      wants = [ "network-online.target" ];
      startLimitIntervalSec = 0;
      # mysqld restarts itself after a clone: it exits with 16 when this variable names its parent, which is systemd.
      environment.MYSQLD_PARENT_PID = "1";
      # NixOS' own script would write transactions of this member's own.
      postStart = lib.mkForce ''
        if test -e ${marker}; then
          # A root that no longer lets us in was closed by an earlier run of these statements, which ends with it.
          if ${client} --user=root --execute='DO 0' 2>/dev/null; then
            ${client} --user=root < ${firstBoot}
          fi
          rm ${marker}
        fi
      '';
      serviceConfig = restart // {
        RestartForceExitStatus = "16";
        LoadCredential = lib.mapAttrsToList (name: file: "${name}:${file}") trivet.nodeCredentials;
        # Group Replication lists the machine's addresses, which takes netlink.
        RestrictAddressFamilies = [ "AF_NETLINK" ];
        # Crash recovery and the wait for pages to reach the disk take as long as they take; a kill would start them over.
        TimeoutStartSec = "infinity";
        TimeoutStopSec = "5min";
        OOMScoreAdjust = -600; # other services restart in a moment, a database does not
        LimitNOFILE = 65536;
        # Beyond what services.mysql denies.
        DevicePolicy = "closed";
        ProtectClock = true;
        ProtectKernelLogs = true;
        ProtectProc = "invisible";
        RemoveIPC = true;
        RestrictNamespaces = true;
        UMask = "0027";
      };
    };
  };
}
