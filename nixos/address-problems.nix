# What is wrong with the address of a back end, as a list of sentences.
{ lib }:
let
  problem = lib.optional;
  # Folders that the sandbox of the balancer hides (sandbox.nix).
  hidden = [
    "/tmp/"
    "/var/tmp/"
    "/home/"
    "/root/"
    "/run/user/"
  ];
in
# `what` names the back end, `port` is an example.
what: port: backend:
let
  path = lib.removePrefix "unix:" backend.address;
  isSocket = lib.hasPrefix "unix:" backend.address;
in
problem (isSocket && !lib.hasPrefix "/" path) (
  "${what} has the address \"${backend.address}\", which is no absolute path; write for example \"unix:/run/${backend.name}/${backend.name}.sock\""
)
++ problem (isSocket && lib.any (folder: lib.hasPrefix folder path) hidden) (
  "${what} has its socket in ${path}, which is hidden from the balancer's unit; have the app listen below /run, and give the "
  + "balancer its group in systemd.services.trivet-balancer.serviceConfig.SupplementaryGroups"
)
++ problem (!isSocket && builtins.match ".*:[0-9]+" backend.address == null) (
  "${what} has the address \"${backend.address}\" without a port; write for example \"${backend.address}:${port}\""
)
