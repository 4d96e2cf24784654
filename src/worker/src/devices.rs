//! The devices of this machine, and slots made of them: `--devices cpu`, `--devices cuda:0-3`, `--slots`,
//! `--devices-per-slot`.
