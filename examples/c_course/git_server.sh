#!/bin/sh
# Serves each submission as a bare repository, git://git/NAME.git. A submission is the right one with some files replaced.
set -e
export HOME=/tmp
git config --global user.name "C course"
git config --global user.email course@localhost
for folder in submissions/*; do
    name=$(basename "$folder")
    mkdir "/tmp/$name"
    cp -r submissions/right/. "$folder/." "/tmp/$name"
    git init --quiet "/tmp/$name"
    git -C "/tmp/$name" add .
    git -C "/tmp/$name" commit --quiet --message "my uniq"
    git clone --quiet --bare "/tmp/$name" "/srv/$name.git"
done
exec git daemon --verbose --export-all --base-path=/srv
