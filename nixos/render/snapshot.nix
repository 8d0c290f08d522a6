# What each node of the test cluster has that an empty NixOS does not, as data. Nothing is built: units, /etc entries and the
# like are read off the evaluated configuration, and `roots` names the derivations of the files they refer to, whose texts
# render.py reads from the derivations.
{
  nixpkgs,
  system ? "x86_64-linux",
}:
let
  lib = import "${toString nixpkgs}/lib";
  evaluate =
    modules:
    (import "${toString nixpkgs}/nixos/lib/eval-config.nix" {
      inherit system modules;
    }).config;
  machine = {
    boot.loader.grub.enable = false;
    fileSystems."/" = {
      device = "/dev/vda";
      fsType = "ext4";
    };
    networking.useDHCP = false;
    system.stateVersion = "26.05";
  };
  base = evaluate [ machine ];

  plain = builtins.unsafeDiscardStringContext;
  string = v: if builtins.isString v then v else "${v}";
  texts = u: if u.text == null then "" else u.text;

  # What NixOS assembles from everything else, and so differs whenever anything does.
  assembled = {
    units = [
      "dbus-broker.service"
      "systemd-sysctl.service"
      "systemd-tmpfiles-resetup.service"
    ];
    etc = [
      "dbus-1"
      "sysctl.d/60-nixos.conf" # the values stand by themselves
      "systemd/system"
      "systemd/user"
      "terminfo"
      "tmpfiles.d"
    ];
  };

  node =
    name:
    let
      config = evaluate [
        machine
        ../.
        ../example/cluster.nix
        ../../vm-tests/settings.nix
        { networking.hostName = name; }
      ];
      isNew = old: key: same: !(old ? ${key}) || !(same old.${key});
      units = lib.filterAttrs (
        n: u: !lib.elem n assembled.units && isNew base.systemd.units n (o: o.text == u.text && o.enable == u.enable && o.wantedBy == u.wantedBy)
      ) config.systemd.units;
      etc = lib.filterAttrs (
        n: e: e.enable && !lib.elem n assembled.etc && isNew base.environment.etc n (o: string o.source == string e.source)
      ) config.environment.etc;
      tmpfiles = lib.subtractLists base.systemd.tmpfiles.rules config.systemd.tmpfiles.rules;
      context = map texts (lib.attrValues units) ++ map (e: string e.source) (lib.attrValues etc) ++ tmpfiles;
    in
    # Reading units forces no assertion; the path of the whole system does.
    builtins.seq config.system.build.toplevel.drvPath {
      units = lib.mapAttrs (_: u: {
        inherit (u)
          enable
          wantedBy
          requiredBy
          upheldBy
          aliases
          overrideStrategy
          ;
        text = plain (texts u);
      }) units;
      etc = lib.mapAttrs' (
        _: e:
        lib.nameValuePair e.target {
          inherit (e) mode user group;
          source = plain (string e.source);
        }
      ) etc;
      tmpfiles = map plain tmpfiles;
      users = lib.mapAttrs (_: u: {
        inherit (u)
          uid
          group
          extraGroups
          home
          description
          ;
      }) (lib.filterAttrs (n: u: u.enable && !(base.users.users ? ${n})) config.users.users);
      groups = lib.mapAttrs (_: g: { inherit (g) gid members; }) (
        lib.filterAttrs (n: _: !(base.users.groups ? ${n})) config.users.groups
      );
      sysctl = lib.filterAttrs (
        n: v: v != null && v != (base.boot.kernel.sysctl.${n} or null)
      ) config.boot.kernel.sysctl;
      roots = map plain (lib.attrNames (builtins.getContext (lib.concatStrings context)));
    };
  cluster = import ../example/cluster.nix;
in
lib.genAttrs (lib.attrNames cluster.services.trivet.cluster.nodes) node
