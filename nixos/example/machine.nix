# What belongs to the machines and not to the cluster: disks, boot loader, address, who may log in. Yours will differ; this one
# suits a virtual machine with one disk.
{ config, lib, ... }:
let
  inherit (config.services.trivet) cluster node;
in
{
  boot.loader.grub.device = "/dev/vda";
  fileSystems."/" = {
    device = "/dev/vda1";
    fsType = "ext4";
  };

  networking = {
    useDHCP = false;
    usePredictableInterfaceNames = false; # eth0
    interfaces.eth0.ipv4.addresses = lib.optional (cluster.nodes ? ${node}) {
      inherit (cluster.nodes.${node}) address;
      prefixLength = 24;
    };
    defaultGateway = "10.77.0.1";
    nameservers = [ "10.77.0.1" ];
  };

  services.openssh = {
    enable = true;
    settings.PasswordAuthentication = false;
  };
  # users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA… you@example.org" ];

  system.stateVersion = "26.05";
}
