#compdef vipo

_vipo_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _VIPO_COMPLETE=complete_zsh vipo)
}

compdef _vipo_completion vipo
