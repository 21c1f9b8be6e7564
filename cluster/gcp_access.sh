#!/usr/bin/env bash
# What cluster/gcp.yaml needs of a project: a network whose SSH is open to one address alone, a bucket, and an account for
# the machines with runs that may use the bucket and nothing else. (Ray makes the head's account.)
# bash cluster/gcp_access.sh PROJECT REGION BUCKET ADDRESS
set -euo pipefail
project=$1 region=$2 bucket=$3 address=$4
gcloud() { command gcloud --project "$project" --quiet "$@"; }

gcloud compute networks create rt-scale --subnet-mode=auto
gcloud compute firewall-rules create rt-scale-inside --network=rt-scale --source-ranges=10.128.0.0/9 --allow=all
gcloud compute firewall-rules create rt-scale-ssh --network=rt-scale --source-ranges="$address/32" --allow=tcp:22
gcloud storage buckets create "gs://$bucket" --location="$region" --uniform-bucket-level-access
gcloud iam service-accounts create rt-scale-runs
gcloud storage buckets add-iam-policy-binding "gs://$bucket" --role=roles/storage.objectAdmin \
    --member="serviceAccount:rt-scale-runs@$project.iam.gserviceaccount.com"
