#!/usr/bin/env bash
# The first process of a host (see machines.py), in namespaces of its own; it ends with its standard input.
# Arguments: name, world's folder, this host's disk, address or none, addresses of lo (words), kept folders (lines),
# environment of those who log in (words of sshd's SetEnv).
set -euo pipefail
name=$1 folder=$2 disk=$3 address=$4 lo_addresses=$5 kept=$6 environment=$7
root=$disk/root

hostname "$name"
ip link set lo up
for each in $lo_addresses; do ip addr add "$each/32" dev lo; done
if [ -n "$address" ]; then
    ip addr add "$address/16" dev eth0
    ip link set eth0 up
    # Ray asks which address it would send from; nothing answers outside the bridge.
    ip route add default dev eth0
fi

# The machine's files, and whatever is written over them is on this host's disk.
mkdir -p "$disk"/{changes,work,root,tmp,home,old_home}
mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/changes,workdir=$disk/work" "$root"
mount --rbind /dev "$root/dev"
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=666
mount -t tmpfs tmpfs "$root/dev/shm"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
chmod 1777 "$disk/tmp" "$root/dev/shm"
mount --bind "$disk/tmp" "$root/tmp"

# A home of its own; what the interpreter needs of the real one is bound back.
mount --bind "$root$HOME" "$disk/old_home"
chmod 700 "$disk/home"
mount --bind "$disk/home" "$root$HOME"
while read -r each; do
    case $each in
        "$HOME"/*) mkdir -p "$root$each"; mount --rbind "$disk/old_home${each#"$HOME"}" "$root$each" ;;
        *)
            [ ! -e "$root$each" ] || continue
            mkdir -p "$root$each"
            mount --bind "$each" "$root$each"
            mount -o remount,bind,ro "$root$each"
            ;;
    esac
done <<<"$kept"
umount -l "$disk/old_home"
mkdir -p "$root$folder/shared"
mount --bind "$folder/shared" "$root$folder/shared"

mkdir -p "$root/run/sshd" "$root$HOME/.ssh" "$root/etc/ssh"
cp "$folder/host_key" "$root/etc/ssh/world_host_key"
chmod 600 "$root/etc/ssh/world_host_key"
[ -e "$root$HOME/.ssh/authorized_keys" ] || cp "$folder/key.pub" "$root$HOME/.ssh/authorized_keys"
printf '127.0.0.1 localhost\n%s %s\n' "${address:-127.0.1.1}" "$name" >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
cat >"$root/etc/ssh/sshd_config" <<END
HostKey /etc/ssh/world_host_key
PidFile /run/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
SetEnv $environment
END

cd "$root"
mount --make-rprivate /
pivot_root . mnt
cd /
umount -l /mnt
/usr/sbin/sshd -E /var/log/sshd.log </dev/null
until (: <>/dev/tcp/127.0.0.1/22) 2>/dev/null; do sleep 0.02; done
echo ready
while read -r _; do :; done
