/* See zmq_faults.c. Private to proto/. */
#ifndef OCTO_PROTO_ZMQ_FAULTS_H
#define OCTO_PROTO_ZMQ_FAULTS_H

/* Keeps a file descriptor for connections that there is none for. Thread-safe. */
void zmq_faults_keep_spare(void);

#endif
