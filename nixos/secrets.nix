# Where a node keeps its secrets. They are made by `trivet secrets init`, copied to the node by its operator, read by root
# alone, and handed to each service as credentials; the store never sees them (problems.nix refuses such a path).
{ config, lib, ... }:
let
  cfg = config.services.trivet;
in
{
  options.services.trivet.secretsDirectory = lib.mkOption {
    type = with lib.types; either str path;
    apply = toString; # never interpolated: that would copy the folder into the store
    default = "/var/lib/trivet/secrets";
    description = ''
      Folder on the node with its own secrets, as `trivet secrets init` lays them out: `ca.pem`, `node.pem`, `node.key`,
      `site.pem`, `site.key`, `ticket.secret`, `replication-password`, `app-password`,
      `backup-password`, `backup.key`, `backup-recovery.pub`, `app.env`.
    '';
  };

  config = lib.mkIf cfg.enable {
    systemd.tmpfiles.rules = [
      "d /var/lib/trivet 0755 root root - -"
      "d ${cfg.secretsDirectory} 0700 root root - -"
    ];
  };
}
