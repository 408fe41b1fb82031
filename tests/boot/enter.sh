#!/bin/bash
# Makes a Debian tree the root of fresh namespaces and systemd their process 1. Called by board.py, through unshare:
#   enter.sh ROOT OVERLAY-OPTIONS HIERARCHIES [HOST-FOLDER:PLACE...]
# HIERARCHIES: the cgroup hierarchies of the host, comma-separated; "v2" where there is one for all.
set -euo pipefail
root=$1 options=$2 hierarchies=$3
shift 3

mount_devices() {
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  for name in null zero full random urandom tty; do
    touch "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
  done
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
}

mount_cgroups() {
  local at=$root/sys/fs/cgroup name
  if [[ $hierarchies == v2 ]]; then
    mount -t cgroup2 cgroup2 "$at"
    return
  fi
  mount -t tmpfs -o mode=755 tmpfs "$at"
  for name in ${hierarchies//,/ }; do
    mkdir "$at/$name"
    case $name in
      unified) mount -t cgroup2 cgroup2 "$at/$name" ;;
      systemd) mount -t cgroup -o none,name=systemd cgroup "$at/$name" ;;
      *) mount -t cgroup -o "$name" cgroup "$at/$name" ;;
    esac
  done
}

mount -t overlay overlay -o "$options" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount_devices
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount_cgroups
mkdir "$root/run/host"
for pair in "$@"; do
  mkdir -p "$root/run/host/${pair##*:}"
  mount --bind -o ro "${pair%:*}" "$root/run/host/${pair##*:}"
done
hostname fedmq-board
ip link set lo up
cd "$root"
mkdir run/old
pivot_root . run/old
umount -l /run/old
rmdir /run/old
# As the root of a machine is: credentials, among others, are mounted elsewhere and have to be seen here.
mount --make-rshared /
exec env -i container=fedmq-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=multi-user.target </dev/null
