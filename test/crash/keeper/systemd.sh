# Starts a real systemd (a user manager) in namespaces of its own and then does what it reads line by line:
# systemd.sh UNIT_FILE DROP_IN. After each line it prints "<exit status> done". Nothing outside is changed.
set -eu
unit=$1
drop_in=$2
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/user/0/systemd/user/keel.service.d
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
cp "$unit" /run/user/0/systemd/user/keel.service
cp "$drop_in" /run/user/0/systemd/user/keel.service.d/test.conf
export XDG_RUNTIME_DIR=/run/user/0
/lib/systemd/systemd --user --unit=basic.target </dev/null >&2 &
tries=0
until systemctl --user is-active --quiet basic.target 2>/dev/null; do
    tries=$((tries + 1))
    test $tries -lt 200
    sleep 0.05
done
echo "0 done"
set +e
while read -r line; do
    eval "$line"
    echo "$? done"
done
