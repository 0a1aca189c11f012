#!/bin/sh
# PID 1 of the virtual machine: what an init system does for a Docker engine, and no more.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mounted() {
  mkdir -p "$2" && { mountpoint -q "$2" || mount -t "$1" none "$2"; }
}
mounted proc /proc
mounted sysfs /sys
mounted devtmpfs /dev
mounted devpts /dev/pts
mounted tmpfs /run
mounted cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done
mkdir /sys/fs/cgroup/engine  # not in the root group: an engine looks there for what the kernel can limit
echo $$ > /sys/fs/cgroup/engine/cgroup.procs
ip link set lo up
ip link set vec0 up
ip address add 10.0.2.15/24 dev vec0
exec tini -- dockerd --tls=false --host tcp://0.0.0.0:2375 --bridge none --iptables=false
