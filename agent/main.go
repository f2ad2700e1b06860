// Command agent runs on a device: it reads what the device is to run, installs
// it when the device's turn has come, proves that it is well or goes back, and
// reports.
package main

func main() {}
