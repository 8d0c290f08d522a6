# Backups: on every member of the database a service that can do the work, and of which one has the lease. It copies, streams the
# binary log and proves what it has by restoring it (docs/backup.md).
{
  config,
  lib,
  pkgs,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  inherit (cfg) backup;
  inherit (trivet) ports;
  settings = import ./settings.nix { inherit lib pkgs; };
  service = import ./service.nix { inherit lib pkgs; };
  onNode = import ./on-node.nix { inherit lib; };
  unit = "trivet-backup";
  staticRoot = "${cfg.web.root}";
  file = settings.generate "backup.json" backup.settings;
  duration = lib.types.strMatching "[0-9]+(s|m|h|d|w|days?|weeks?|hours?|min)";

  every =
    default: what:
    lib.mkOption {
      type = duration;
      inherit default;
      description = "From one ${what} to the next.";
    };
  count =
    default: what:
    lib.mkOption {
      type = lib.types.ints.unsigned;
      inherit default;
      description = "Of how many ${what} the last copy is kept.";
    };
  text =
    description:
    lib.mkOption {
      type = lib.types.str;
      inherit description;
    };
  secret =
    what:
    lib.mkOption {
      type = onNode.type;
      description = "File on the node with ${what}.";
    };

  s3 = lib.types.submodule {
    options = {
      bucket = text "The bucket, which exists.";
      endpoint = lib.mkOption {
        type = lib.types.str;
        example = "https://s3.eu-central-1.amazonaws.com";
        description = "The storage's address, without the bucket.";
      };
      region = lib.mkOption {
        type = lib.types.str;
        default = "us-east-1";
        description = "The region that requests are signed for.";
      };
      prefix = lib.mkOption {
        type = lib.types.str;
        default = "";
        description = "A folder in the bucket.";
      };
      accessKeyFile = secret "the access key's id";
      secretKeyFile = secret "the secret access key";
    };
  };
  sftp = lib.types.submodule {
    options = {
      host = text "Name or address of the other machine. Its host key belongs into `programs.ssh.knownHosts`.";
      port = lib.mkOption {
        type = lib.types.port;
        default = 22;
        description = "Its port.";
      };
      user = text "The user to sign in as.";
      path = text "The folder there.";
      keyFile = secret "the private key to sign in with";
    };
  };
  repository = lib.types.submodule {
    options = {
      folder = lib.mkOption {
        type = lib.types.nullOr onNode.type;
        default = null;
        description = "A folder that every node of the database has: a mounted network file system. Made when it is not there.";
      };
      s3 = lib.mkOption {
        type = lib.types.nullOr s3;
        default = null;
        description = "A bucket that speaks S3.";
      };
      sftp = lib.mkOption {
        type = lib.types.nullOr sftp;
        default = null;
        description = "A folder of another machine, over SFTP.";
      };
      appendOnly = lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = "Never delete anything from there: for storage that lets the nodes add only, so that a node that was broken into cannot delete the past.";
      };
    };
  };

  # What a repository is signed in to with, handed over as credentials.
  secretsOf =
    name: r:
    lib.optionalAttrs (r.s3 != null) {
      "${name}-access-key" = r.s3.accessKeyFile;
      "${name}-secret-key" = r.s3.secretKeyFile;
    }
    // lib.optionalAttrs (r.sftp != null) { "${name}-ssh-key" = r.sftp.keyFile; };
  place =
    name: r:
    lib.optionalAttrs (r.folder != null) { inherit (r) folder; }
    // lib.optionalAttrs (r.s3 != null) {
      s3 = {
        inherit (r.s3)
          bucket
          endpoint
          region
          prefix
          ;
        access_key_file = trivet.credential unit "${name}-access-key";
        secret_key_file = trivet.credential unit "${name}-secret-key";
      };
    }
    // lib.optionalAttrs (r.sftp != null) {
      sftp = {
        inherit (r.sftp)
          host
          port
          user
          path
          ;
        key_file = trivet.credential unit "${name}-ssh-key";
      };
    }
    // lib.optionalAttrs r.appendOnly { append_only = true; };
  # The program refuses such names as well, but these stand in the names of credentials.
  repositoryProblems = lib.concatLists (
    lib.mapAttrsToList (
      name: r:
      lib.optional (builtins.match "[a-z0-9-]{1,32}" name == null) (
        "services.trivet.backup.repositories has the name \"${name}\": give it one of at most 32 of a-z, 0-9 and -"
      )
      ++ lib.concatLists (
        lib.mapAttrsToList (
          part: path:
          let
            of = {
              what = "services.trivet.backup.repositories.${part}";
              inherit path;
              example = "/var/lib/trivet/secrets/backup-storage";
            };
          in
          onNode.problems of ++ onNode.secretProblems of
        ) (
          lib.optionalAttrs (r.s3 != null) {
            "${name}.s3.accessKeyFile" = r.s3.accessKeyFile;
            "${name}.s3.secretKeyFile" = r.s3.secretKeyFile;
          }
          // lib.optionalAttrs (r.sftp != null) { "${name}.sftp.keyFile" = r.sftp.keyFile; }
        )
      )
    ) backup.repositories
  );
  folders = lib.filter (f: f != null) (lib.mapAttrsToList (_: r: r.folder) backup.repositories);
in
{
  options.services.trivet.backup = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Keep backups of the database and of the site's files.";
    };
    repositories = lib.mkOption {
      type = lib.types.attrsOf repository;
      default = { };
      example = {
        main.folder = "/srv/backup";
      };
      description = "Where they are kept; each place has everything. One of `folder`, `s3` and `sftp` each.";
    };
    base.every = every "1d" "base copy of the database";
    files = {
      every = every "1h" "copy of the site's files";
      paths = lib.mkOption {
        type = lib.types.listOf onNode.type;
        # A package is in the configuration already.
        default = lib.optional (trivet.has "app" && !onNode.inStore staticRoot) staticRoot;
        defaultText = lib.literalMD "on app nodes, `services.trivet.web.root` if it is no package";
        example = [ "/var/lib/trivet/www" ];
        description = "Folders and files on the node that are copied, each node's own, beside the cluster file. The unit must be able to read them.";
      };
    };
    verify.every = every "7d" "trial restore";
    retention = {
      hourly = count 24 "hours";
      daily = count 7 "days";
      weekly = count 5 "weeks";
      monthly = count 12 "months";
    };
    settings = settings.option "trivet-backup";
  };

  config = lib.mkIf (cfg.enable && backup.enable && trivet.has "database") {
    assertions = [
      {
        assertion = backup.repositories != { };
        message = "services.trivet.backup is enabled and has no place for the backups: set services.trivet.backup.repositories.main.folder, .s3 or .sftp";
      }
    ]
    ++ lib.mapAttrsToList (name: r: {
      assertion = lib.count (kind: kind != null) [ r.folder r.s3 r.sftp ] == 1;
      message = "services.trivet.backup.repositories.${name} needs exactly one of folder, s3 and sftp";
    }) backup.repositories
    ++ map (message: {
      assertion = false;
      inherit message;
    }) repositoryProblems;

    services.trivet.backup.settings = settings.defaults {
      node = trivet.self.name;
      cluster = cfg.cluster.groupName;
      metrics.listen = trivet.at ports.backupMetrics trivet.self;
      state_directory = "/var/lib/${unit}";
      mysql = {
        user = "trivet_backup";
        password_file = trivet.credential unit "backup-password";
        ca = trivet.credential unit "ca.pem";
        # The gateway stands on app nodes; a member without one asks the group itself.
        primary = trivet.local ports.databaseWrite;
        members = map (n: {
          inherit (n) name;
          address = trivet.at ports.mysql n;
        }) trivet.databases;
        programs = "${config.services.mysql.package}/bin";
      };
      key = {
        identity_file = trivet.credential unit "backup.key";
        recovery_file = trivet.credential unit "backup-recovery.pub";
      };
      repositories = lib.mapAttrs place backup.repositories;
      base = { inherit (backup.base) every; };
      files = {
        inherit (backup.files) every;
        paths = backup.files.paths ++ [ "/etc/trivet/cluster.json" ];
      };
      verify = { inherit (backup.verify) every; };
      inherit (backup) retention;
    };
    services.trivet.keeper.settings.mysql = {
      backup_user = backup.settings.mysql.user;
      backup_password_file = trivet.credential "trivet-keeper" "backup-password";
    };

    services.trivet.generated = [
      {
        program = unit;
        inherit file;
      }
    ];
    services.trivet.users = [ unit ];
    users.users.${unit}.home = "/var/lib/${unit}"; # ssh keeps its sockets there
    environment.etc."trivet/backup.json".source = file;
    systemd.tmpfiles.rules = map (folder: "d ${folder} 0700 ${unit} ${unit} - -") folders;

    systemd.services.trivet-keeper.serviceConfig.LoadCredential = [ "backup-password:${trivet.secret "backup-password"}" ];
    systemd.services.${unit} = service {
      user = unit;
      execStart = "${cfg.package}/bin/trivet-backup --config ${file}";
      credentials =
        lib.genAttrs [ "ca.pem" "backup-password" "backup.key" "backup-recovery.pub" ] trivet.secret
        // lib.concatMapAttrs secretsOf backup.repositories;
      after = [ "mysql.service" ];
      serviceConfig = {
        StateDirectory = unit;
        StateDirectoryMode = "0700";
        ReadWritePaths = folders;
        # The site comes first.
        Nice = 10;
        CPUWeight = 20;
        IOWeight = 20;
        # Of the two, mysqld is to live.
        OOMScoreAdjust = 500;
        # auth_socket of its scratch servers asks who they are.
        PrivateUsers = false;
      };
    } // {
      description = "Trivet backups";
      # For sftp.
      path = lib.optional (lib.any (r: r.sftp != null) (lib.attrValues backup.repositories)) pkgs.openssh;
    };
  };
}
